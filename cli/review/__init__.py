"""What a stack edit will do, in Markdown for a pull request, from `pulumi preview --json`.

Reads the engine's steps, and the objects of Istio and Kubernetes by their kinds; never the models
of the stack file, so that it can also read the preview of an older program. Prints no outputs and
no secrets.
"""
