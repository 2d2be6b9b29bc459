"""What the benchmarks of the live path share: the processes, the requests and the senders."""
