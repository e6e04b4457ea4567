//! In a cluster: one login a user, where only one may be.
//!
//! A connection of a user claims the user's place before it joins the user's room. Each claim has a
//! generation, one more than the one before; the connection with the highest holds the place. That a
//! higher one has come is told in the user's room, and seen again at every read and every beat, so
//! that of two logins on two nodes one stays, whatever announcement is lost.

use super::RoomShard;
use super::following::Join;
use super::numbering::Pending;
use super::requests::Subject;
use crate::base::{CloseReason, ConnId, DuplicateLogin, Instant, Now, RoomName, UserId};
use crate::cluster::{Failure, Login, Request};
use crate::exchange::Effect;

/// The logins of the connections in the room of one user.
#[derive(Debug, Default)]
pub(super) struct Logins {
    held: Vec<(ConnId, Login)>,
    /// The highest generation that was heard of.
    generation: u64,
}

impl Logins {
    pub(super) fn add(&mut self, conn: ConnId, login: Login) {
        self.held.push((conn, login));
        self.generation = self.generation.max(login.generation);
    }

    pub(super) fn remove(&mut self, conn: ConnId) -> Option<Login> {
        let at = self.held.iter().position(|(one, _)| *one == conn)?;
        Some(self.held.swap_remove(at).1)
    }

    /// The one that holds the place, if it is held here.
    pub(super) fn newest(&self) -> Option<Login> {
        let logins = self.held.iter().map(|(_, login)| *login);
        logins.max_by_key(|login| login.generation)
    }
}

impl RoomShard {
    /// Whether a connection must have the place of its user before it is let into a room.
    pub(super) fn must_claim(&self, name: &RoomName, join: &Join) -> bool {
        self.limits.duplicate_login != DuplicateLogin::Allow
            && (join.identity.as_ref()).is_some_and(|one| user_of(name) == Some(one.user.as_str()))
    }

    /// Asks for the place of a user, until `deadline`.
    pub(super) fn claim(&mut self, deadline: Instant, name: RoomName, join: Join) {
        let Some(user) = join.identity.as_ref().map(|one| one.user.clone()) else {
            return;
        };
        let is_exclusive = self.limits.duplicate_login == DuplicateLogin::Refuse;
        let number = join.number;
        let Some(following) = &mut self.following else {
            return;
        };
        if let Some(pending) = following.open.get_mut(number) {
            *pending = Pending::Claim(Box::new((name, join)));
        }
        following.requests.push(Request::Claim {
            number,
            user,
            is_exclusive,
            deadline,
        });
    }

    /// A claim was answered.
    pub(super) fn handle_claimed(
        &mut self,
        now: Now,
        number: u64,
        outcome: Result<Option<u64>, Failure>,
    ) {
        let Ok(generation) = outcome else {
            return self.give_up(number);
        };
        let Some(claim) = self.end_claim(number) else {
            return;
        };
        let (name, mut join) = *claim;
        match generation {
            None => self.refuse_join(&name, join, CloseReason::ConnectionLimit),
            Some(generation) => {
                join.login = Some(Login { generation, number });
                self.join_followed(now, name, join);
            }
        }
    }

    /// Takes out who has claimed a place, to wait for its room under the same number.
    fn end_claim(&mut self, number: u64) -> Option<Box<(RoomName, Join)>> {
        let pending = self.following.as_mut()?.open.get_mut(number)?;
        let Pending::Claim(claim) = pending else {
            return None;
        };
        let join = Pending::Join(claim.0.clone());
        match std::mem::replace(pending, join) {
            Pending::Claim(claim) => Some(claim),
            _ => None,
        }
    }

    /// Whether a connection that claimed the place of its user still has it.
    pub(super) fn holds(&mut self, name: &RoomName, join: &Join) -> bool {
        let generation = self
            .followed_mut(name)
            .map_or(0, |followed| followed.logins.generation);
        join.login
            .is_none_or(|login| login.generation >= generation)
    }

    /// The last login of a room's user is of this generation: those before it are over.
    pub(super) fn note_login(&mut self, name: &RoomName, generation: u64) {
        let Some(followed) = self.followed_mut(name) else {
            return;
        };
        let logins = &mut followed.logins;
        if generation <= logins.generation {
            return;
        }
        logins.generation = generation;
        let over = logins
            .held
            .iter()
            .filter(|(_, login)| login.generation < generation);
        let over: Vec<ConnId> = over.map(|(conn, _)| *conn).collect();
        let reason = CloseReason::ConnectionLimit;
        let closes = over.into_iter().map(|conn| Effect::Close {
            conn,
            room: name.clone(),
            reason,
        });
        self.effects.extend(closes);
    }

    /// A connection leaves the room of its user, and with it the place.
    pub(super) fn leave_login(&mut self, name: &RoomName, conn: ConnId) {
        let login = self
            .followed_mut(name)
            .and_then(|followed| followed.logins.remove(conn));
        if let Some(login) = login {
            self.release_login(name, login);
        }
    }

    /// Gives back the places of all users, held, waiting for their room or asked for.
    pub(super) fn release_all_logins(&mut self) {
        let Some(following) = &mut self.following else {
            return;
        };
        let mut logins = Vec::new();
        for claim in following.open.iter().filter_map(|pending| match pending {
            Pending::Claim(claim) => Some(claim),
            _ => None,
        }) {
            let (name, join) = &**claim;
            let (generation, number) = (0, join.number);
            // What was not taken is not asked for any more.
            if !following.requests.withdraw(&Subject::Number(number)) {
                logins.push((name.clone(), Login { generation, number }));
            }
        }
        for (name, room) in self.rooms.iter() {
            let Some(followed) = &room.followed else {
                continue;
            };
            let held = followed.logins.held.iter().map(|(_, login)| *login);
            let waiting = followed.joins.iter().filter_map(|join| join.login);
            logins.extend(held.chain(waiting).map(|login| (name.clone(), login)));
        }
        for (name, login) in logins {
            self.release_login(&name, login);
        }
    }

    /// Gives the place of a user back.
    pub(super) fn release_login(&mut self, name: &RoomName, login: Login) {
        let user = user_of(name).and_then(|user| UserId::new(user).ok());
        if let Some(user) = user
            && let Some(following) = &mut self.following
        {
            let request = Request::Release { user, login };
            following.requests.push(request);
        }
    }
}

/// Whose room it is.
fn user_of(name: &RoomName) -> Option<&str> {
    name.as_str().strip_prefix('#')
}
