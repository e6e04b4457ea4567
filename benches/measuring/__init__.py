"""What benches/compare and its siblings share: servers, runs of the load, rows, report and plot."""
