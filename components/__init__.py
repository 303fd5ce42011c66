"""The Pulumi components, one in each file. None reads pulumi.Config or knows the stack's name."""
