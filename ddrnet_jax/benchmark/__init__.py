"""The network's speed, by four protocols, beside other engines and the published figures."""
