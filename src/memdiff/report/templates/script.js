(function () {
  "use strict";
  function compare(a, b) {
    if (a === b) return 0;
    if (a === null || a === "") return 1;
    if (b === null || b === "") return -1;
    var x = Number(a), y = Number(b);
    if (!isNaN(x) && !isNaN(y)) return x - y;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  }
  function ordered(items, key, descending) {
    return items.map(function (item, index) { return { item: item, index: index, key: key(item) }; })
      .sort(function (a, b) {
        var empty = function (v) { return v === null || v === undefined || v === ""; };
        if (empty(a.key) !== empty(b.key)) return empty(a.key) ? 1 : -1;
        var order = compare(a.key, b.key);
        return (descending ? -order : order) || a.index - b.index;
      })
      .map(function (entry) { return entry.item; });
  }

  document.querySelectorAll("table[data-sortable]").forEach(function (table) {
    var body = table.tBodies[0];
    var heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach(function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      while (head.firstChild) button.appendChild(head.firstChild);
      head.appendChild(button);
      button.addEventListener("click", function () {
        var descending = head.getAttribute("aria-sort") === "ascending";
        heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        ordered(Array.from(body.rows), function (row) {
          return row.cells[column].getAttribute("data-sort");
        }, descending).forEach(function (row) { body.appendChild(row); });
      });
    });
  });

  document.querySelectorAll(".gallery").forEach(function (gallery) {
    var controls = gallery.querySelector(".controls");
    if (!controls) return;
    controls.hidden = false;
    var list = gallery.querySelector(".cards");
    var cards = Array.from(list.children);
    var sort = controls.querySelector(".sort");
    var direction = controls.querySelector(".direction");
    var filter = controls.querySelector(".filter");
    var facets = Array.from(controls.querySelectorAll(".facet"));
    var shown = controls.querySelector(".shown");
    function wanted(card, words) {
      if (words !== "" && card.textContent.toLowerCase().indexOf(words) < 0) return false;
      var values = JSON.parse(card.getAttribute("data-facets"));
      return facets.every(function (facet) {
        return facet.value === "" || facet.value === "=" + values[facet.getAttribute("data-facet")];
      });
    }
    var more = gallery.querySelector(".more");
    var first = 12;
    function arranged() {
      var descending = sort && direction.getAttribute("aria-pressed") === "true";
      if (!sort || sort.value === "") return descending ? cards.slice().reverse() : cards;
      return ordered(cards, function (card) {
        return JSON.parse(card.getAttribute("data-values"))[sort.value];
      }, descending);
    }
    function update() {
      var words = filter.value.trim().toLowerCase();
      var count = 0;
      arranged().forEach(function (card) {
        var match = wanted(card, words);
        if (match) count += 1;
        card.hidden = !match || count > first;
        list.appendChild(card);
      });
      shown.textContent = Math.min(count, first) + " of " + count + " shown";
      more.parentNode.hidden = count <= first;
      more.textContent = "Show all " + count;
    }
    more.addEventListener("click", function () { first = Infinity; update(); });
    filter.addEventListener("input", update);
    facets.forEach(function (facet) { facet.addEventListener("change", update); });
    if (sort) {
      sort.addEventListener("change", update);
      direction.addEventListener("click", function () {
        var pressed = direction.getAttribute("aria-pressed") === "true";
        direction.setAttribute("aria-pressed", String(!pressed));
        update();
      });
    }
    window.addEventListener("beforeprint", function () { first = Infinity; update(); });
    update();
  });

  if (window.matchMedia("(max-width: 69.99rem)").matches) {
    document.querySelectorAll("nav details").forEach(function (details) { details.open = false; });
  }
})();
