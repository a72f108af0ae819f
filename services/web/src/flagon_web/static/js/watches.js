// The list of watches: prices as they are after one of them fell.

import { follow } from "flagon/live";
import { renew } from "flagon/page";

const fresh = () => renew("#watches");

follow(["me"], { onEvent: fresh, onGap: fresh });
