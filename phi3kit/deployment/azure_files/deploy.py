"""Deploy this folder to an Azure ML managed online endpoint with azure-ai-ml.

pip install azure-ai-ml azure-identity
python deploy.py --check                       # reads the YAML files with Azure's own loader; asks no network
python deploy.py --subscription ID --resource-group NAME --workspace NAME
"""

import argparse
from pathlib import Path

from azure.ai.ml import load_online_deployment, load_online_endpoint

HERE = Path(__file__).parent


def main() -> None:
    """Create the endpoint, create the deployment, send it all traffic, and ask it once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only read and check the files")
    for name in ("subscription", "resource-group", "workspace"):
        parser.add_argument(f"--{name}")
    arguments = parser.parse_args()

    endpoint = load_online_endpoint(HERE / "endpoint.yml")
    deployment = load_online_deployment(HERE / "deployment.yml")
    for path in ("model/MLmodel", "score/score.py", "environment/conda.yaml", "sample-request.json"):
        if not (HERE / path).is_file():
            parser.error(f"{path} is missing")
    if arguments.check:
        print(f"{endpoint.name}/{deployment.name}: {deployment.instance_count} x {deployment.instance_type}")
        return
    if not (arguments.subscription and arguments.resource_group and arguments.workspace):
        parser.error("--subscription, --resource-group and --workspace are needed")

    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    client = MLClient(DefaultAzureCredential(), arguments.subscription, arguments.resource_group, arguments.workspace)
    client.online_endpoints.begin_create_or_update(endpoint).result()
    client.online_deployments.begin_create_or_update(deployment).result()
    endpoint.traffic = {deployment.name: 100}
    client.online_endpoints.begin_create_or_update(endpoint).result()
    print(client.online_endpoints.invoke(endpoint.name, request_file=str(HERE / "sample-request.json")))
    print(client.online_endpoints.get(endpoint.name).scoring_uri)


if __name__ == "__main__":
    main()
