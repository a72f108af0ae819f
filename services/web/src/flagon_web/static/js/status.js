// The status page looks again every few seconds while somebody looks at it.

import { renew } from "flagon/page";

setInterval(() => { if (document.visibilityState === "visible") renew("#status"); }, 5000);
