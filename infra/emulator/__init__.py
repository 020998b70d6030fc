"""AWS on 127.0.0.1: moto's control plane, and a data plane that runs the real Lambda runtime client in processes.

    python -m infra.emulator --port 4566

moto answers for S3, IAM, STS, CloudFormation, CloudWatch Logs and the Lambda control plane. This package adds what
moto leaves to Docker or leaves out: execution environments (`environment`, `runtime_api`, `plane`), invocations and
function URLs (`front`, `urls`), permissions with conditions (`access`, `policies`), the CloudFormation types that a
deployment needs (`formation`), and faults on demand (`faults`). docs/emulator.md says what is emulated and what is not.
"""
