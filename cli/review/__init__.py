"""What a stack edit will do, in Markdown for a pull request, from `pulumi preview --json`.

Reads what the engine says of each resource, and Istio's and Kubernetes's objects by their kinds;
never the models of the stack file, so that a preview of an older program can be read too. Prints no
outputs and no secrets.
"""
