"""`python -m tests.bench`: how long things take, as ratios to the same done by hand or bare."""
