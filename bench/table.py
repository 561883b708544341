"""Pure: the benchmarks of `make bench`, in the order in which they run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Benchmark:
    """module: has a `run`, see figures.py. Its bars are there too, with the figures they are held against."""

    module: str
    shows: str


BENCHMARKS = {
    "engines": Benchmark("bench.engines", "what a forward pass of a ResNet-18 takes on one thread, here and elsewhere"),
    "agreement": Benchmark("bench.agreement", "how often int8 names the class that fp32 names, on a trained model"),
    "pictures": Benchmark("bench.pictures", "what pictures cost from the bytes of a file to the input of a network"),
    "batching": Benchmark(
        "bench.batching", "what a worker gains by computing several pictures at once, and how long that takes"
    ),
    "broker": Benchmark("bench.broker", "what the broker costs: a model that does nothing, beside a bare echo"),
    "scale": Benchmark("bench.scale", "whether a request costs the broker more when there is more of everything"),
    "serving": Benchmark("bench.serving", "a pool of two workers beside two bare processes, the same work"),
    "http": Benchmark("bench.http", "what HTTP costs, beside bare processes and the client library"),
    "servers": Benchmark("bench.servers", "other servers beside hotpool on the same work"),
    "changes": Benchmark(
        "bench.changes", "what a change of the model costs the callers, of hotpool and of other servers"
    ),
    "memory": Benchmark("bench.memory", "what memory each worker has for itself"),
    "priority": Benchmark(
        "bench.priority", "how long the services take to answer while more workers compute than there are cores"
    ),
    "rollouts": Benchmark(
        "bench.rollouts", "what a rollout costs the callers while it runs, and how long a worker is away"
    ),
    "faults": Benchmark("bench.faults", "what kills of workers and of the broker cost the callers, under load"),
}
