"""How fast the network is, by four protocols, beside other engines and the published figures."""
