"""A request to an endpoint: route table, parameters, body, response, problems; and routes in Python."""
