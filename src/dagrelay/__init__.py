"""dagrelay runs DAGs of async tasks inside your own process and hands their values on, durably."""
