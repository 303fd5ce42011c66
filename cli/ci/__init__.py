"""What pipelines run besides the commands for people; the scripts are in ci/."""
