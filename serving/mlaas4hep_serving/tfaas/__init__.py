"""TFaaS's endpoints, and models that clients upload."""
