// The columns of an import: rows that are used stand out.

const form = document.querySelector("[data-columns]");
form.addEventListener("change", (event) => {
  const row = event.target.closest("tr");
  if (row) row.classList.toggle("is-used", Boolean(event.target.value));
});
