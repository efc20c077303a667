"""The servers of a workspace, Prefect and MLflow: started, found and stopped on this machine; never imported."""
