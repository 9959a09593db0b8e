"""The command `doctor`: what is wrong before a run is started, and the cure of each."""
