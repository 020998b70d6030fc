"""What runs on AWS Lambda: the worker's and the driver's halves, and the interface that clients talk to."""
