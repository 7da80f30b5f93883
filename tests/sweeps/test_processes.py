"""Sweeps in other processes: several devices, several hosts, kills, full disks."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

import esv_jax as ej
from tests.conftest import ROOT
from tests.sweeps_for_tests import make_sequences, run_killer, run_sweep, shards_of, write_set

pytestmark = pytest.mark.slow


def start(folder, options, flags="", **variables):
    """A process that sweeps the set in a folder; variables of its environment."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.sweeps_for_tests", str(folder), json.dumps(options)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_hosts(folder, n, options, **own):
    """Run n processes of one runtime; `own`: options of single hosts, as host_1={...}."""
    address = f"127.0.0.1:{free_port()}"
    return [
        start(
            folder,
            options | {"coordinator": address, "hosts": n, "host": k} | own.get(f"host_{k}", {}),
        )
        for k in range(n)
    ]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A set of sequences, some sampled, and its shards from one process with one device."""
    folder = tmp_path_factory.mktemp("processes")
    write_set(folder, make_sequences((3, 5, 3, 5, 3, 5, 3, 5, 3, 5, 3)))
    run_sweep(folder, estimator=["Constructive", 4, 2], shard_size=2)
    return folder, {"estimator": ["Constructive", 4, 2], "shard_size": 2}


def test_eight_devices_give_the_same_bytes(swept):
    folder, options = swept
    flags = "--xla_force_host_platform_device_count=8"
    process = start(folder, options | {"out": "eight"}, flags)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert json.loads(out.splitlines()[-1]) == {"explained": 11, "devices": 8}
    assert shards_of(folder / "eight") == shards_of(folder / "out")


def test_eight_devices_in_blocks_of_many(tmp_path):
    """Exact values: 32 videos to a device, the last devices with none."""
    write_set(tmp_path, make_sequences([3] * 70))
    run_sweep(tmp_path)
    process = start(tmp_path, {"out": "eight"}, "--xla_force_host_platform_device_count=8")
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert shards_of(tmp_path / "eight") == shards_of(tmp_path / "out")


@pytest.mark.parametrize("n", [2, 4])
def test_several_hosts_give_the_same_bytes(swept, n):
    folder, options = swept
    processes = start_hosts(folder, n, options | {"out": f"hosts-{n}"})
    ends = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * n, ends
    explained = [json.loads(out.splitlines()[-1])["explained"] for out, _ in ends]
    assert sum(explained) == 11
    assert min(explained) > 0
    assert shards_of(folder / f"hosts-{n}") == shards_of(folder / "out")
    records = ej.results.store.read_records(folder / f"hosts-{n}")
    assert {record["host"] for record in records.values()} == set(range(n))
    with ej.results.open(folder / f"hosts-{n}") as dataset:
        assert dataset.attrs["n_finished"] == 11


def test_a_cluster_is_found(swept):
    """The environment of two SLURM tasks is all that the processes are given."""
    folder, options = swept
    told = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
    }
    processes = [
        start(
            folder,
            options | {"out": "slurm", "cluster": True},
            **told,
            SLURM_PROCID=str(k),
            SLURM_LOCALID=str(k),
        )
        for k in range(2)
    ]
    ends = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert shards_of(folder / "slurm") == shards_of(folder / "out")
    records = ej.results.store.read_records(folder / "slurm")
    assert {(record["host"], record["n_hosts"]) for record in records.values()} == {(0, 2), (1, 2)}


def test_hosts_that_differ_are_refused(swept):
    folder, options = swept
    processes = start_hosts(folder, 2, options | {"out": "differ"}, host_1={"seed": 8})
    for process in processes:
        _, error = process.communicate(timeout=300)
        assert process.returncode != 0
        assert "hosts: expected what host 0 has, on host 1 too, got key: [0, 7] there" in error
    assert not (folder / "differ").exists()


def test_a_refusal_of_the_first_host_reaches_all(swept):
    folder, options = swept
    processes = start_hosts(folder, 2, options | {"classes": "pred"})
    for process in processes:
        _, error = process.communicate(timeout=300)
        assert process.returncode != 0
        assert "FileExistsError: out: expected a folder without results" in error


def test_a_host_that_is_lost(swept):
    """The shards of the other host stay, and one process continues alone."""
    folder, options = swept
    slow = options | {"out": "lost"}
    first, second = start_hosts(folder, 2, slow)
    while not list((folder / "lost" / "shards").glob("0*.json")):
        assert first.poll() is None or second.poll() is None
    second.send_signal(signal.SIGKILL)
    second.wait()
    first.send_signal(signal.SIGKILL)  # as the batch system does, or JAX's runtime after a while
    first.wait()
    for process in (first, second):
        process.stdout.close()
        process.stderr.close()
    there = len(ej.results.store.read_records(folder / "lost"))
    assert there > 0
    run_sweep(folder, "lost", **options)
    assert shards_of(folder / "lost") == shards_of(folder / "out")


@pytest.mark.slow
def test_two_independent_processes(swept):
    """Both start at once: one writes, the other is refused or finds everything done."""
    folder, options = swept
    processes = [start(folder, options | {"out": "two"}) for _ in range(2)]
    ends = [process.communicate(timeout=300) for process in processes]
    codes = [process.returncode for process in processes]
    assert 0 in codes
    for code, (_, error) in zip(codes, ends, strict=True):
        assert code == 0 or "FileExistsError: out: expected a folder that no other sweep" in error
    assert shards_of(folder / "two") == shards_of(folder / "out")
    names = {path.name for path in (folder / "two" / "shards").iterdir()}
    assert names == {path.name for path in (folder / "out" / "shards").iterdir()}


KILLER = """
    # Sweeps over and over in children that are killed; loaded once, forked before JAX starts.
    import json, os, random, shutil, signal, sys, time
    from pathlib import Path
    import esv_jax.sweeps, esv_jax.results, h5netcdf, xarray
    from tests.sweeps_for_tests import run_sweep, shards_of

    folder, seed, wanted = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng, kills, finished, wrong = random.Random(seed), 0, 0, 0
    whole = shards_of(folder / "out")

    def dies_at(k):
        # Killed around its k-th file, half of the times before it has its name, else after.
        replace, seen = os.replace, [0]
        def replaced(*args):
            seen[0] += 1
            if seen[0] == k and rng.random() < 0.5:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*args)
            if seen[0] == k:
                os.kill(os.getpid(), signal.SIGKILL)
        os.replace = replaced

    while kills < wanted or not finished:
        by_time = rng.random() < 0.4
        last = kills >= wanted
        k, after = rng.randint(1, 8), rng.uniform(0.2, 1.5)
        rng.random()
        child = os.fork()
        if child == 0:
            try:
                if not by_time and not last:
                    dies_at(k)
                run_sweep(folder, "killed", shard_size=1)
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(3)
            os._exit(0)
        if by_time and not last:
            time.sleep(after)
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
        elif os.WEXITSTATUS(status):
            sys.exit("a sweep failed")
        else:
            finished += 1
            wrong += shards_of(folder / "killed") != whole
            wrong += len(list((folder / "killed/shards").iterdir())) != 2 * len(whole)
            shutil.rmtree(folder / "killed")
    print(json.dumps({"kills": kills, "finished": finished, "wrong": wrong}))
"""


def test_killed_at_random_moments(tmp_path):
    """After twenty kills or more the store equals that of an uninterrupted sweep."""
    write_set(tmp_path, make_sequences([3] * 9))
    run_sweep(tmp_path, shard_size=1)
    found = run_killer(KILLER, tmp_path, 22, timeout=600)
    assert found["kills"] >= 22
    assert found["finished"] >= 1
    assert found["wrong"] == 0


LIMITED = """
    # Sweeps where no file may grow beyond a size: as on a disk that is full, a write ends half-way.
    import resource, signal, sys
    from pathlib import Path
    from tests.sweeps_for_tests import run_sweep

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        run_sweep(Path(sys.argv[1]), "full")
    except OSError as error:
        sys.exit(f"refused: {error}")
"""


def test_a_file_that_cannot_be_written_completely(tmp_path):
    """Large shards do not fit, small ones do and stay; with more space the sweep continues."""
    write_set(tmp_path, make_sequences([3, *[5] * 200]))
    run_sweep(tmp_path)
    view = (tmp_path / "out" / "results.nc").stat().st_size
    small, large = sorted(len(content) for content in shards_of(tmp_path / "out").values())
    most = max(view, small)
    assert most < large
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path), str(most + 1)],
        cwd=ROOT,
        # No program is kept for other processes: its file would end half-way as well.
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "refused: path: expected a path that can be written" in process.stderr
    left = {path.name for path in (tmp_path / "full" / "shards").iterdir()}
    assert left == {"00000.nc", "00000.json"}
    again = run_sweep(tmp_path, "full")
    assert again.n_before == 1
    assert shards_of(tmp_path / "full") == shards_of(tmp_path / "out")


def test_a_full_disk(tmp_path):
    """A small file system in memory holds some shards; then it grows."""
    write_set(tmp_path, make_sequences([5] * 12))
    whole = run_sweep(tmp_path, shard_size=1)
    disk = tmp_path / "disk"
    disk.mkdir()
    used = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={used // 2}", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"no mount here ({error}); the limit on single files is tested above")
    if mounted.returncode:
        pytest.skip(f"may not mount here ({mounted.stderr.strip()}); see the limit on files above")
    try:
        with pytest.raises(OSError, match=r"expected a path that can be written.*No space left"):
            run_sweep(tmp_path, "disk/out", shard_size=1)
        there = len(ej.results.store.read_records(disk / "out"))
        assert 0 < there < whole.n_videos
        names = {path.name for path in (disk / "out").rglob("*") if path.is_file()}
        assert not [name for name in names if name.startswith(".")]  # nothing half written
        subprocess.run(["mount", "-o", f"remount,size={4 * used}", str(disk)], check=True)
        again = run_sweep(tmp_path, "disk/out", shard_size=1)
        assert again.n_before == there
        assert shards_of(disk / "out") == shards_of(tmp_path / "out")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
