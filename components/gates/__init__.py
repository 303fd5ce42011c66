"""Gates: measurements on the running mesh before an edit that could cut callers off.

A gate is a Pulumi resource hook on the object that it guards. It runs in the program's own process,
only in an update, and only when that object changes; if it fails, the object stays as it was. It
reads the proxies' statistics through the API server and changes nothing.
"""
