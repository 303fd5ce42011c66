"""Commands for pipelines only; their scripts are in ci/."""
