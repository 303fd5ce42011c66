"""The policy pack: what no stack may do, whatever its stack file says.

`pulumi preview --policy-pack policy`. The rules are pure functions over a stack (policy.stack);
only __main__ knows Pulumi's policy SDK.
"""
