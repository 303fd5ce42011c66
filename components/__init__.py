"""One Pulumi component a file; none of them reads pulumi.Config or knows a stack's name."""
