"""report: one HTML file that shows a folder of runs, without a script and without the network."""
