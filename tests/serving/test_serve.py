"""`--mode serve` from its command to Ctrl-C; what keeps it from starting is one line."""

import builtins
import http.client
import os
import signal
import socket
import sys
import threading
import time

import pytest
from http_server import asked, png
from onnx_files import write_red_channel

from ddrnet_jax import main as main_lib
from ddrnet_jax.prediction import engines
from ddrnet_jax.serving import serve


def run(capsys, *flags):
    """(exit code, what was said on standard output, on standard error) of --mode serve."""
    code = main_lib.main(["--mode", "serve", *map(str, flags)])
    return code, *capsys.readouterr()


@pytest.fixture
def network(tmp_path):
    return write_red_channel(tmp_path / "network.onnx")


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_it_serves_until_ctrl_c(network, free_port, capsys, host):
    found, end_s = [], time.monotonic() + 60

    def client():
        while not found and time.monotonic() < end_s:
            try:
                found.append(asked(free_port, "POST", body=png(3)))
                found.append(asked(free_port, "GET", "/health", Host="server.example"))
            except (ConnectionError, http.client.HTTPException):
                time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=client)
    thread.start()
    code, out, err = run(capsys, "--checkpoint", network, "--port", free_port, "--host", host)
    thread.join()
    assert (code, found[0][0]) == (130, 200)
    assert out == f"http://{host}:{free_port} shows the page; Ctrl-C ends it\n"
    lines = err.strip().splitlines()
    assert lines[0].startswith("engine: onnxruntime")
    assert lines[-1] == "stopped"
    is_open = host == "0.0.0.0"
    assert ("warning: whoever reaches this machine can use it, without a password" in err) == is_open
    assert found[1][0] == (200 if is_open else 403), "what it is called on other machines is not known here"


def test_a_port_in_use_is_one_line_before_anything_is_loaded(network, capsys, monkeypatch):
    monkeypatch.setattr(engines, "load", None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code, _, err = run(capsys, "--checkpoint", network, "--port", port)
    assert (code, err) == (
        1,
        f"error: --port {port}: another program listens there; give another, or 0 for any that is free\n",
    )


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "a" * 70])
def test_a_host_that_is_not_here_is_one_line(network, capsys, host):
    code, _, err = run(capsys, "--checkpoint", network, "--host", host, "--port", 0)
    assert (code, len(err.splitlines())) == (1, 1)
    assert err.startswith(f"error: --host {host}: no address of this machine")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--checkpoint", "none", "--port", "0"), "none: no checkpoint here"),
        (("--checkpoint", "a", "--port", "70000"), "--port 70000: expected a whole number from 1 to 65535, or 0"),
        (("--checkpoint", "a", "--port", "-1"), "--port -1: expected"),
        (("--checkpoint", "a", "--config", "configs/demo.py"), "--mode serve takes no --config"),
        (("--checkpoint", "a", "--output", "b"), "--mode serve does not take --output"),
    ],
)
def test_wrong_flags_are_one_line(capsys, flags, words):
    code, _, err = run(capsys, *flags)
    assert (code, len(err.splitlines()), words in err) == (1, 1, True), err


@pytest.mark.parametrize("missing", ["uvicorn", "starlette"])
def test_a_missing_library_is_one_line(capsys, monkeypatch, missing):
    for name in [n for n in sys.modules if n.split(".")[0] in ("uvicorn", "starlette") or ".serving" in n]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sys.modules["ddrnet_jax"], "serving", raising=False)
    found = builtins.__import__

    def absent(name, *arguments):
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return found(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", absent)
    code, _, err = run(capsys, "--checkpoint", "a")
    assert (code, err) == (1, f"error: --mode serve: {missing} is not installed: pip install 'ddrnet-jax[serve]'\n")


def test_an_address_of_ipv6():
    try:
        listener = serve.listening("::1", 0)
    except serve.ServeError:
        pytest.skip("this machine has no IPv6")
    with listener:
        assert serve.address("::1", listener) == f"http://[::1]:{listener.getsockname()[1]}"
