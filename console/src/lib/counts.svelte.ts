// What the menu counts.

class Counts {
  attention = $state(0);
}

export const counts = new Counts();
