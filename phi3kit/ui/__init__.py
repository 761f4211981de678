"""User interface: what every page shares. The only place of the kit that imports streamlit."""

# Several visitors may come at an app's first moment, each in a thread. MLflow's modules import each other in circles, and
# threads that begin in different places of a circle see halves of it, for good. Whoever is first here imports them whole.
import mlflow.models
import mlflow.store.tracking.sqlalchemy_store
import mlflow.tracking  # noqa: F401
