"""params.yaml and the command line: types, reading, presets, options, and the exit code that trouble ends with.

The parameters of a section are the module `params` of the room that reads them; here are those that all stages share.
"""
