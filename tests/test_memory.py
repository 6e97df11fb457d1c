"""Free memory, within every limit that there is."""

import resource

from ddrnet_jax import memory


def test_free_memory_is_within_the_limits_of_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_machine_bytes", lambda: 10_000)
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "_CGROUP_OF_PROCESS", tmp_path / "cgroup")
    assert memory.available_bytes() == 10_000, "no cgroups"
    (tmp_path / "cgroup").write_text("4:memory:/old\n0::/pod/container\n")
    container = tmp_path / "groups" / "pod" / "container"
    container.mkdir(parents=True)

    def limit(folder, most):
        for name, text in (("max", most), ("current", "3000"), ("stat", "anon 2400\ninactive_file 500\n")):
            (folder / f"memory.{name}").write_text(text)

    limit(container, "max")
    assert memory.available_bytes() == 10_000
    limit(container.parent, "7000")
    assert memory.available_bytes() == 7000 - 3000 + 500
    limit(container, "2000")
    assert memory.available_bytes() == 0


def test_free_memory_is_within_the_limits_of_the_process(monkeypatch):
    whole = memory.available_bytes()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10 * 2**40, 10 * 2**40))
    assert abs(memory.available_bytes() - whole) < 2**30
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**20, 2**20))
    assert memory.available_bytes() == 0
