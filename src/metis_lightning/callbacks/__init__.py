"""Lightning callbacks: what is logged beside the losses."""
