"""One file a stage. Heavy packages are imported inside the stage functions, so that plans and --help stay quick."""
