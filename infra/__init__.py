"""What deploys and emulates Overcast: the emulator, the build of the Lambda package, stacks. Not part of the wheel."""
