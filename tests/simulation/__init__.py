"""The real agent in a simulated world: days of driving in seconds, each run told by its seed.

`python -m tests.simulation --seeds 100` plays seeds 1 to 100; `--seed 7 --trace` plays one, and prints what happened.
"""
