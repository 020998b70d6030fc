"""The commands of the command line, a few to a file. What they need beyond argparse is imported when they run."""
