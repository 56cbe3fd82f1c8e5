"""Run `benchmarks.speed.frontend` as `python -m benchmarks.frontend`."""

from benchmarks.speed.frontend import main

if __name__ == "__main__":
    main()
