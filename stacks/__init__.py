"""What an environment is: the models of the stack file, the version catalogue, the platform."""
