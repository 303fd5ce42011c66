"""The policy pack: rules that every stack must meet, whatever its stack file has.

`pulumi preview --policy-pack policy`. The rules are pure functions over a stack (policy.stack);
only __main__ knows Pulumi's policy SDK.
"""
