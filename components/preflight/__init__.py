"""The preflight: measures machines before anything on them is changed.

`measure` runs a script on all nodes at once over SSH, `judge` compares the results with the stack's
limits, and `report` prints the findings. `hook` runs it before the first step that changes a new
node. It changes nothing on any machine.
"""
