"""What made a run is plain JSON: the command as given, the versions that are installed."""

import json
import platform

import jax

from ddrnet_jax.runs import provenance


def test_made_by_names_command_devices_and_versions():
    found = provenance.made_by("python -m ddrnet_jax.main --config 'a b.py'")
    assert json.loads(json.dumps(found)) == found
    assert found["command"] == "python -m ddrnet_jax.main --config 'a b.py'"
    assert found["devices"] == f"{jax.device_count()} x cpu"
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["python"] == platform.python_version()
