"""Ray's figures, under the names that `mobula microbenchmark` gives to ours, one JSON object per line.

`cargo xtask bench` runs this in turn with ours. Each row does the work of ours: the same number of tasks, bytes and
references. Rows that end in `per second` are those of `ray microbenchmark`, which is run for them.
"""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import ray
from ray.cluster_utils import Cluster

QUICK = "--quick" in sys.argv[1:]
NOTHING = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}


def runs(thorough):
    return max(1, thorough // 10) if QUICK else thorough


def row(name, unit, better, samples):
    value = statistics.median(samples)
    print(json.dumps({"name": name, "value": value, "unit": unit, "better": better, "peer": "ray"}), flush=True)


def lower(name, unit, work, count, scale):
    """The time that `work` takes, in `unit`s of which a second has `scale`."""
    samples = []
    for _ in range(runs(count)):
        start = time.perf_counter()
        work()
        samples.append((time.perf_counter() - start) * scale)
    row(name, unit, "lower", samples)


def rate(name, work, items, count, unit="1/s"):
    samples = []
    for _ in range(runs(count)):
        start = time.perf_counter()
        work()
        samples.append(items / (time.perf_counter() - start))
    row(name, unit, "higher", samples)


def resident_mib():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@ray.remote
def same(n):
    return n


@ray.remote
def length(*numbers):
    return len(numbers)


@ray.remote(num_returns=3_000)
def results():
    return list(range(3_000))


@ray.remote
def first(array):
    return float(array[0])


@ray.remote
def made(count):
    return np.ones(count, np.float32)


@ray.remote(num_cpus=0)
def nest():
    return sum(ray.get([same.remote(1) for _ in range(10)]))


@ray.remote(num_returns="streaming")
def stream(count):
    for n in range(count):
        yield n


@ray.remote(num_cpus=0)
class Adder:
    def __init__(self):
        self.sum = 0

    def add(self, n):
        self.sum += n
        return self.sum

    def process(self):
        return os.getpid()


def in_a_fresh_process(code, name, count):
    """Milliseconds from the start of a driver's process to its end, which is that of its first task."""
    lower(name, "ms", lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True), count, 1e3)


def first_result(init):
    return f"import ray; ray.init({init}); f = ray.remote(lambda: 1); print(ray.get(f.remote()))"


def processes():
    ray.get(same.remote(0))
    lower("task in a worker process, one at a time", "us", lambda: ray.get(same.remote(1)), 1_000, 1e6)
    rate("tasks in worker processes, pipelined", lambda: ray.get([same.remote(n) for n in range(10_000)]), 10_000, 5)
    adder = Adder.remote()
    ray.get(adder.add.remote(1))
    lower("actor call between processes, one at a time", "us", lambda: ray.get(adder.add.remote(1)), 1_000, 1e6)
    many = lambda: ray.get([adder.add.remote(1) for _ in range(10_000)])
    rate("actor calls between processes, pipelined", many, 10_000, 5)
    lower("put, 1 KB", "ns", lambda: ray.put(b"7" * 1_024), 1_000, 1e9)


def large():
    gigabyte = np.ones(250_000_000, np.float32)
    start = time.perf_counter()
    ray.put(gigabyte)
    row("put 1 GB, first after start", "GB/s", "higher", [1.0 / (time.perf_counter() - start)])
    rate("put 1 GB, steady", lambda: ray.put(gigabyte), 1.0, 10, "GB/s")
    array = ray.put(np.ones(25_000_000, np.float32))
    plain = []
    for _ in range(runs(200)):
        start = time.perf_counter()
        ray.get(same.remote(1))
        between = time.perf_counter()
        ray.get(first.remote(array))
        plain.append((time.perf_counter() - 2 * between + start) * 1e6)
    row("100 MB by reference, beyond a plain task", "us", "lower", plain)
    other = made.remote(60_000_000)
    ray.wait([other])
    lower("get_view of 240 MB that another process made", "us", lambda: ray.get(other), 100, 1e6)


def many():
    numbers = [ray.put(n) for n in range(10_000)]
    lower("10,000 arguments to one task, on a cluster", "ms", lambda: ray.get(length.remote(*numbers)), 10, 1e3)
    lower("3,000 results of one task, on a cluster", "ms", lambda: ray.get(results.remote()), 10, 1e3)

    def one_by_one():
        rest = [same.remote(n) for n in range(1_000)]
        while rest:
            _, rest = ray.wait(rest)

    lower("wait on 1,000 references, one by one, on a cluster", "ms", one_by_one, 10, 1e3)

    def chain():
        last = same.remote(0)
        for _ in range(99):
            last = same.remote(last)
        ray.get(last)

    lower("chain of 100 dependent tasks", "ms", chain, 10, 1e3)
    lower("nested tasks, 50 x 10", "ms", lambda: ray.get([nest.remote() for _ in range(50)]), 5, 1e3)
    rate("streamed items", lambda: [ray.get(item) for item in stream.remote(10_000)], 10_000, 3)
    count = 10_000 if QUICK else 100_000
    before, start = resident_mib(), time.perf_counter()
    tasks = [same.remote(n) for n in range(count)]
    row(f"{count} tasks queued, driver's memory, on a cluster", "MiB", "lower", [resident_mib() - before])
    ray.get(tasks)
    row(f"{count} tasks queued and done, on a cluster", "s", "lower", [time.perf_counter() - start])


def group():
    made = ray.util.placement_group([{"CPU": 0.001}])
    ray.get(made.ready())
    ray.util.remove_placement_group(made)


def deaths():
    adder = Adder.options(max_restarts=-1, max_task_retries=-1).remote()

    def killed():
        os.kill(ray.get(adder.process.remote()), signal.SIGKILL)
        ray.get(adder.add.remote(1))

    killed()
    lower("actor's process killed, to its next answer", "ms", killed, 10, 1e3)


def two_nodes():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1, resources={"second": 1})
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    there = first.options(resources={"second": 0.1})
    ray.get(there.remote(np.ones(1, np.float32)))
    samples = []
    for _ in range(runs(10)):
        array = ray.put(np.ones(60_000_000, np.float32))
        start = time.perf_counter()
        ray.get(there.remote(array))
        samples.append(0.24 / (time.perf_counter() - start))
    row("pull of 240 MB between nodes", "GB/s", "higher", samples)
    ray.shutdown()
    cluster.shutdown()


def own_rows():
    """What `ray microbenchmark` prints: a name, `per second`, a mean."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "microbenchmark"]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    for name, value in re.findall(r"^(.* per second) ([0-9.]+) \+-", told.stdout, re.MULTILINE):
        row(name, "1/s", "higher", [float(value)])


def main():
    in_a_fresh_process(first_result("include_dashboard=False"), "process start to first task's result", 3)
    ray.init(**NOTHING)
    address = ray.get_runtime_context().gcs_address
    in_a_fresh_process(first_result(f"address={address!r}"), "joined to a running cluster, to first result", 5)
    processes()
    large()
    many()
    lower("placement group made and removed, cluster", "us", group, 100, 1e6)
    deaths()
    ray.shutdown()
    two_nodes()
    if not QUICK:
        own_rows()


if __name__ == "__main__":
    main()
