"""What stands behind one command each and needs no sweep: probe, evaluate, doctor."""
