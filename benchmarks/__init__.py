"""Side-by-side measurements, run by hand with `make bench`. They print ratios taken in one run, never assert a time."""
