"""`python -m tests.bench`: durations as ratios to manual steps and to bare Pulumi programs."""
