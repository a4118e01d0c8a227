"""The command line and the executors: the only place that knows Ray, the clock and the terminal."""
