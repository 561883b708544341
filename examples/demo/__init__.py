"""The main job, end to end: a pool serves real pictures from several threads while its model changes, a worker and the broker
are killed, and two bad versions are tried. `python -m examples.demo`, or `make demo`."""
