"""Starting runs: processes on this machine, and jobs on SLURM through submitit."""
