"""Long runs: what two hours of switchovers do to clients, memory, threads and descriptors."""
