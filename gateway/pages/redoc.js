// ReDoc over the merged document. It would tell its makers of every reader; the policy of
// the page would refuse that, too.

import { init } from "./redoc.standalone.js";

init("/api/openapi.json", { disableTelemetry: true }, document.getElementById("reference"));
