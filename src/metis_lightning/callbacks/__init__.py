"""Lightning callbacks: checkpoints, averages, guards, and what is logged beside the losses."""
