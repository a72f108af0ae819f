// The list of jobs: fresh whenever one changes, at most once a second.

import { follow } from "flagon/live";
import { renew } from "flagon/page";

let waiting = 0;
function soon() {
  waiting ||= setTimeout(async () => { waiting = 0; await renew("#jobs"); }, 1000);
}

follow(["jobs"], {
  onEvent(type, job) {
    const row = document.querySelector(`tr[data-job="${CSS.escape(job.id ?? "")}"]`);
    const bar = row?.querySelector("[data-bar]");
    if (type.includes("progressed") && bar && job.progress?.total) {
      bar.max = 100;
      bar.value = (job.progress.done * 100) / job.progress.total;
    } else if (type.includes(".job.")) soon();
  },
  onGap: soon,
});
