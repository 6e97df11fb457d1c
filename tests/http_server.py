"""A server of a network in a thread, and requests to it."""

import contextlib
import http.client
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ddrnet_jax.config import base
from ddrnet_jax.data import pictures
from ddrnet_jax.data.sets import of_config
from ddrnet_jax.prediction.segmenter import Segmenter
from ddrnet_jax.serving import serve
from ddrnet_jax.serving.app import App

SPEC = of_config.dataset_spec(base())


def by_red(image):
    """The red channel, as a class."""
    return image[..., 0] % SPEC.num_classes


def png(red=0, size_hw=(6, 8)):
    """A picture of one colour as a file."""
    return pictures.png(np.full((*size_hw, 3), red, np.uint8))


@contextlib.contextmanager
def served(predict=by_red, segmenter=None):
    """The port of a server at 127.0.0.1."""
    segmenter = segmenter or Segmenter(predict, SPEC, engine="by hand")
    with serve.listening("127.0.0.1", 0) as listener, ThreadPoolExecutor(1) as pool:
        server = serve.server_of(App(segmenter, "a network", pool), "127.0.0.1", listener)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.001)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def asked(port, method, path="/predict", body=None, **headers):
    """(status, headers, body) of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, given)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()
